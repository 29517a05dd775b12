package cmdline

import "strings"

// notHere are parameters of Linux that mean nothing to this kernel, as its documentation
// (admin-guide/kernel-parameters.txt) and its drivers name them: with a value or alone.
// They are taken off what init gets, since on another kernel it would not get them
// either. Words that programs look for in init's arguments (single, emergency, rescue, S,
// splash, fastboot) are not among them.
const notHere = `
acpi acpi_backlight acpi_enforce_resources acpi_osi acpi_rev_override acpi_rsdp acpi_sleep add_efi_memmap allow_mismatched_32bit_el0
amd_iommu amd_prefcore amd_pstate apic apm apparmor arm64_nobti audit audit_backlog_limit autogroup
blkdevparts bootconfig boot_delay bootmem_debug cachesize cfi cgroup_disable cgroup_no_v1 cgroup_favordynmods
cgroup_memory clk_ignore_unused clearcpuid clocksource cma coherent_pool coredump_filter cpu_init_udelay cpuidle_haltpoll cpufreq_driver
crash_kexec_post_notifiers crashkernel cryptomgr_notests csdlock_debug dasd debug_boot_weak_hash debug_guardpage_minorder debugfs debug_objects debugpat
debug_pagealloc default_hugepagesz deferred_probe_timeout dell_smm_hwmon dhash_entries dis_ucode_ldr disable_1tb_segments
disable_ipv6 disable_mtrr_cleanup disable_mtrr_trim dma_debug dma_debug_entries driver_async_probe drm earlycon earlyprintk
edac_report edd edid efi efi_fake_mem efi_no_storage_paranoia efivar_ssdt elanfreq enforcing enable_mtrr_cleanup enable_timer_pin_1
evm fail_make_request failslab fb fips forcepae fsync_mode ftrace ftrace_dump_on_oops ftrace_filter ftrace_notrace fw_devlink gather_data_sampling gbpages gpt
hardened_usercopy hardlockup_all_cpu_backtrace hash_pointers hashdist hest_disable hibernate highmem highres hlt hpet hugetlb_cma hugetlb_free_vmemmap
hugepages hugepagesz hung_task_panic hvc_iucv ibt idle ieee754 ignore_rlimit_data ima_appraise ima_hash ima_policy ima_tcb indirect_target_selection
init_mlocked_on_free init_on_alloc init_on_free init_pkru initcall_blacklist initcall_debug initramfs_async initrdmem
intel_idle intel_iommu intel_pstate intremap iomem iommu io_delay irqaffinity irqchip irqfixup irqpoll isapnp isolcpus iucv
kasan kaslr kcsan keep_bootcon kernelcore kfence kgdbcon kgdboc kgdbwait kmemleak kmac kpti kunit kvm_cma_resv_ratio
l1d_flush l1tf lapic lapic_timer_c2_ok lockdown log_buf_len logo lpj lp lsm
max_addr maxcpus max_loop mce mds mem_encrypt mem_sleep memblock memhp_default_state memmap memory_corruption_check memtest mfgpt
mitigations mminit_loglevel mmio_stale_data mminit module_blacklist movable_node movablecore mtdparts mtrr_chunk_size
netdev nfsaddrs nfsroot nmi_backtrace nmi_watchdog no387 no5lvl noacpi noaliencache noalign noapic noapictimer noautogroup nocache
noclflush noefi noexec no_console_suspend no_debug_objects no_entry_flush no_file_caps no_hash_pointers nohibernate nohlt nohugeiomap nohugevmalloc nohz nohz_full
noiommu nointremap noirqdebug nojitter nokaslr nokprobe no-kvmapf nolapic nolapic_timer nomca nomce nomodeset nomodule nompx nonmi_ipi no_path_mtu
noparport nopat nopcid nopku nopti nopv nopvspin no_timer_check noprivilege noreplace-smp noresume norandmaps nosgx nosmap nosmep
nosmp nosmt nosoftlockup nospec_store_bypass_disable nospectre_bhb nospectre_v1 nospectre_v2 no-steal-acc nosync notsc nouveau nowatchdog nowb nox2apic noxsave noxsaveopt
nr_cpus nr_uarts numa numa_balancing numa_zonelist_order oops osst overcommit_memory
page_alloc page_owner page_poison page_reporting pause_on_oops pci pcie_aspm pcie_port_pm pcie_ports pci_hotplug pd_ignore_unused percpu_alloc pirq plip
pnpacpi pnpbios pnp_reserve_irq possible_cpus powersave pr_debug preempt print-fatal-signals printk_delay processor profile prof_cpu prompt_ramdisk
psi psr pti pvrdma quiet_vga radix_hcall_invalidate raid ramdisk_size ramdisk_start randomize_kstack_offset randomize_va_space ras rcu_nocbs
rcu_nocb_poll rdrand reboot relax_domain_level relative_sleep_states reserve reserve_mem reserved_mem reset_devices resume resume_offset resumedelay resumewait retain_initrd retbleed
retpoline rfkill ring3mwait rodata rockchip rootfs_flags s390_iommu sched_debug schedstats sched_thermal_decay_shift sched_verbose security selinux serial
sev show_lapic showacpi simeth skew_tick slab_max_order slab_merge slab_nomerge slub_debug slub_max_order slub_min_objects slub_min_order smack smart2 smp
smt softlockup_all_cpu_backtrace softlockup_panic spec_rstack_overflow spec_store_bypass_disable spectre_bhi spectre_v2 spectre_v2_user split_lock_detect srbds
stack_depot_disable stacktrace strict-devmem sunrpc sve swapaccount swiotlb switches sysrq_always_enabled
tboot thermal threadirqs topology torture tp_printk trace_buf_size trace_clock trace_event trace_instance trace_options transparent_hugepage trusted tsa
tsc tsx tsx_async_abort turbo udbg-immortal unknown_nmi_panic usbcore usb-storage user_debug userpte
vdso vdso32 vga video virtio_mmio vmalloc vmhalt vmpanic vmpoff vmscape vsyscall vt watchdog watchdog_thresh workqueue writecombine
x2apic_phys xen_512gb_limit xen_nopv xen_nopvspin xhci-hcd xpmem xsave zswap`

// oldUML are words of older User Mode Linux kernels.
const oldUML = "debug_parent fakehd gdb gdb-pid honeypot host-config jail noprocmm noptracefaultinfo skas skas3 stderr umn"

// known says why a word of that name has no effect, "" for one that is not known.
var known = func() map[string]string {
	m := make(map[string]string)
	for _, name := range strings.Fields(notHere) {
		m[canonical(name)] = "a Linux parameter that does not apply to this kernel"
	}
	for _, name := range strings.Fields(oldUML) {
		m[canonical(name)] = obsolete
	}
	return m
}()

// canonical is a parameter's name with "_" for "-", which are the same to Linux.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// foreign takes a word that no option takes, as Linux does: it is init's, unless Linux
// has it for its own or for a module (its name holds a dot). Programs of the guest find
// those in /proc/cmdline.
func (c *Config) foreign(word string) {
	name, value, isEnv := strings.Cut(word, "=")
	why := known[canonical(name)]
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
