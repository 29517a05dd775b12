package cmdline

import "strings"

// notHere are parameters of Linux that mean nothing to this kernel and have a value, as
// its documentation (admin-guide/kernel-parameters.txt) names them; the same word without
// one is not theirs. They are taken off what init gets, since on another kernel it would
// not get them either. Parameters with a dot in their name are told by that.
const notHere = `
acpi acpi_backlight acpi_enforce_resources acpi_osi acpi_rev_override acpi_rsdp acpi_sleep amd_iommu amd_prefcore amd_pstate apic
apm apparmor audit audit_backlog_limit blkdevparts boot_delay cachesize cfi cgroup_disable cgroup_favordynmods cgroup_no_v1
clearcpuid clocksource cma coherent_pool coredump_filter cpu_init_udelay crashkernel csdlock_debug dasd debug_guardpage_minorder
debug_pagealloc debugfs default_hugepagesz deferred_probe_timeout delayacct dhash_entries disable_ipv6 dma_debug dma_debug_driver
dma_debug_entries driver_async_probe drm earlycon earlyprintk edd efi efi_fake_mem efivar_ssdt enforcing evm fail_make_request
fail_page_alloc failslab fb fips fsync_mode ftrace ftrace_dump_on_oops ftrace_filter ftrace_graph_filter ftrace_notrace fw_devlink
gather_data_sampling hardened_usercopy hash_pointers hashdist hibernate highmem highres hlt hpet hugepages hugepagesz hugetlb_cma
hugetlb_free_vmemmap hung_task_panic hvc_iucv ibt idle ieee754 ima_appraise ima_hash ima_policy indirect_target_selection
init_on_alloc init_on_free init_pkru initcall_blacklist initramfs_async initrdmem intel_iommu intel_pstate intremap io_delay iomem
iommu ipcmni_extend irqaffinity isapnp isolcpus kasan kcsan kernelcore kgdbcon kgdboc kmemleak kpti l1d_flush l1tf lapic lockdown
log_buf_len logo lp lpj lsm max_addr max_loop maxcpus mce mds mem_encrypt mem_sleep_default memblock memhp_default_state memmap
memory_corruption_check memtest mhash_entries mitigations mminit_loglevel mmio_stale_data module_blacklist movablecore
mphash_entries mtdparts netdev nfsaddrs nfsroot nfsrootdebug nmi_backtrace nmi_watchdog no_hash_pointers nohz nohz_full nosmt
nr_cpus nr_uarts numa numa_balancing numa_zonelist_order oops overcommit_memory page_owner page_poison pause_on_oops pci pcie_aspm
pcie_port_pm pcie_ports percpu_alloc pnpacpi pnpbios possible_cpus powersave preempt printk_delay profile prompt_ramdisk psi psr
pti ramdisk_size ramdisk_start randomize_kstack_offset ras rcu_nocbs rdrand reboot reg_file_data_sampling relax_domain_level
reserve reserve_mem resume resume_offset resumedelay retbleed ring3mwait rodata security selinux sev skew_tick
slab_max_order slab_min_objects slab_min_order slub_debug slub_max_order slub_min_objects slub_min_order smack smt
softlockup_all_cpu_backtrace softlockup_panic spec_rstack_overflow spec_store_bypass_disable spectre_bhi spectre_v2
spectre_v2_user split_lock_detect srbds stacktrace stacktrace_filter strict-devmem sve swapaccount swiotlb thash_entries topology
topology_updates trace_buf_size trace_clock trace_event trace_instance trace_options transparent_hugepage tsa tsc tsx
tsx_async_abort uhash_entries unwind_debug user_debug userpte vdso vdso32 vga video vmalloc vmhalt vmpanic vmpoff vmscape vsyscall
watchdog_thresh xen_timer_slop`

// notHereAlone are those that stand alone.
const notHereAlone = `
acpi_force_table_verification acpi_irq_balance acpi_irq_nobalance acpi_no_auto_serialize acpi_no_memhotplug acpi_no_static_ssdt
add_efi_memmap alloc_snapshot bootconfig clk_ignore_unused crash_kexec_post_notifiers debug_boot_weak_hash debug_objects
debugpat dis_ucode_ldr disable_1tb_segments disable_mtrr_cleanup disable_mtrr_trim earlycon earlyprintk efi_no_storage_paranoia
enable_mtrr_cleanup enable_timer_pin_1 forcepae ftrace_dump_on_oops gbpages hest_disable ignore_rlimit_data ima_tcb initcall_debug
irqfixup irqpoll keep_bootcon kgdbwait kunit mminit movable_node no-kvmapf no-kvmclock no-scroll no-steal-acc no387 no4lvl no5lvl
no_console_suspend no_debug_objects no_entry_flush no_file_caps no_hash_pointers no_path_mtu no_timer_check no_uaccess_flush
noacpi noaliencache noalign noapic noapictimer noautogroup nocache noclflush nodelayacct nodsp noefi noexec nofpu nofsgsbase
nofxsr nogbpages nohalt nohibernate nohlt nohugeiomap nohugevmalloc nohz nointremap nointroute noinvpcid noiotrap noirqdebug
nojitter nokaslr nokprobes nolapic nolapic_timer nomca nomce nomfgpt nomodeset nomodule nompx nonmi_ipi noparport nopat nopcid
nopku noprivilege nopti nopv nopvspin norandmaps norcu_nocb_poll noreplace-smp noresume nortsched nosbagart nosgx nosmap nosmep
nosmp nosmt nosoftlockup nospec_store_bypass_disable nospectre_bhb nospectre_v1 nospectre_v2 nosync notsc nowatchdog nowb nox2apic
noxsave noxsavec noxsaveopt noxsaves pd_ignore_unused print-fatal-signals pti rcu_nocb_poll reset_devices resumewait retain_initrd
sched_verbose slab_merge slab_nomerge slub_debug slub_merge slub_nomerge stack_depot_disable sysrq_always_enabled threadirqs
tp_printk unknown_nmi_panic watchdog x2apic_phys xen_512gb_limit xen_nopv xen_nopvspin`

// oldUML are words of older User Mode Linux kernels, alone or with a value.
const oldUML, oldUMLValues = "fakehd noprocmm noptracefaultinfo skas3", "gdb-pid umn"

// known says why a word has no effect, by its name, with "=" behind it if it has a value.
var known = func() map[string]string {
	m := make(map[string]string)
	for _, list := range []struct{ names, end, why string }{
		{notHere, "=", notApplicable}, {notHereAlone, "", notApplicable}, {oldUML, "", obsolete}, {oldUMLValues, "=", obsolete},
	} {
		for _, name := range strings.Fields(list.names) {
			m[canonical(name)+list.end] = list.why
		}
	}
	return m
}()

const notApplicable = "a Linux parameter that does not apply to this kernel"

// canonical is a parameter's name with "_" for "-", which are the same to Linux.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// foreign takes a word that no option takes, as Linux does: it is init's, unless Linux
// has it for its own or for a module (its name holds a dot). Programs of the guest find
// those in /proc/cmdline.
func (c *Config) foreign(word string) {
	name, value, isEnv := strings.Cut(word, "=")
	why := known[canonical(name)]
	if isEnv {
		why = known[canonical(name)+"="]
	}
	if strings.Contains(name, ".") {
		why = "a parameter of a module or of a program: this kernel has none of that name, programs find it in /proc/cmdline"
	}
	if why != "" {
		c.Notes = append(c.Notes, word+": "+why)
		return
	}
	c.Unknown = append(c.Unknown, word)
	if !isEnv {
		c.Args = append(c.Args, word)
		return
	}
	entry := name + "=" + unquote(value)
	for i, old := range c.Env {
		if strings.HasPrefix(old, name+"=") {
			c.Env[i] = entry
			return
		}
	}
	c.Env = append(c.Env, entry)
}
