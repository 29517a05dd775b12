// Package ext4fs is the guest's ext4: a filesystem of the Sentry over the engine in
// package ext4. It mounts ext2, ext3 and ext4 alike.
//
// A filesystem belongs to a disk and may have several mounts. The engine (package ext4)
// knows what is on the disk and keeps metadata; package tree knows paths and names; this
// package knows permissions, open files and memory.
//
// # Data
//
// The pages of a file are, as far as they can be, the host's pages of the image: a
// mapping of the guest is a mapping of the host file at the place where the data lies
// (package hostfile), and read(2) and write(2) go to the disk between the guest's
// memory and the host's page cache, without a copy in between. Machines that run over
// one backing file therefore share its pages.
//
// A page is cached, that is, has a copy in the machine's memory file, when
//
//   - it was stored to through a shared mapping: it is dirty until written back,
//   - it is mapped several times and one of the mappings may store to it,
//   - it has no data on the disk (a hole, or blocks never written),
//   - it is the last of the file and the disk holds anything but zeros after the end,
//   - it is to be executed and the host file cannot be mapped so (a noexec mount),
//   - the filesystem's blocks are smaller than a page,
//   - it does not lie on a page boundary of one host file: the data of a COW file is
//     not aligned, or the page is in part in the COW file and in part behind it,
//   - the file lies in so many pieces that the host's limit of mappings is near,
//   - its data is journaled and waits in the log for its place.
//
// A cached page is always the truth: reads take it, writes change it and the disk.
//
// Where data moves, mappings are invalidated: when a write to a COW file has taken a
// page from the backing file or one to a journaled file has gone to the log, and before blocks are freed by truncating or punching,
// so that no process sees what they are used for next.
//
// # Locks
//
// In the order in which they are taken:
//
//	freezer.writers                   that the filesystem may be changed
//	  the locks of package tree, down to those of the VFS's mounts and dentries
//	    inode.mu                      what changes a file
//	      mm.MemoryManager.mappingMu
//	        content.mapsMu            who maps a file
//	          mm.MemoryManager.activeMu
//	            content.dataMu        a file's pages and where its data lies
//	              the engine's locks
//	                filesystem.hostMu, flusher.mu, hostfile.File.mu
//	acls.mu, FilesystemType.mu
//
// Under the table of inodes (package tree) the engine's locks are taken.
// What copies from or to guest memory may take every lock from mappingMu on, so it
// happens under inode.mu at most; the copying function itself runs with an activeMu
// held and takes dataMu. Translate is called with an activeMu held and so never
// invalidates. References on dentries are dropped with no dirMu held.
package ext4fs
