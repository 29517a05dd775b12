// Package hostfs is a directory of the host as a filesystem of the guest.
//
// The words are Linux's; paths and names are package tree's. An inode is a file of the host.
// An export is a directory of the host that
// the command line opened to the guest; every mount shows it or a directory below.
//
// # Confinement
//
// An inode holds its file by a descriptor opened with O_PATH. A walk goes from descriptor
// to descriptor, one name at a time, and a name is never "..", never empty and holds no
// slash; a symlink is opened itself and read, and its text is walked by the guest's VFS
// from the guest's own directories. The host follows no link and no path of the guest's,
// so that nothing that happens to the tree meanwhile leads a walk out of it.
//
// Only regular files and directories are ever opened, through the descriptor that says
// that they are such. FIFOs, sockets and devices are the guest's: of the host they are
// but nodes.
//
// # Freshness
//
// Nothing about a file is kept: every look-up asks the host whether the name is still the
// same file, every stat is the host's, data is read from and written to the host's page
// cache, and a mapping of the guest is a mapping of the host's file.
//
// # Owners
//
// A file belongs to whom the host says. The options uid= and gid= show what belongs to
// the user and group who run the machine as somebody else's. With remember, owners,
// modes and device nodes that the host does not grant are kept in the attribute
// user.umlkit.owner of the file; see owner.go.
//
// # Locks
//
// In the order in which they are taken:
//
//	the locks of package tree, down to those of the VFS's mounts and dentries
//	  inode.mu                        what changes a file's attributes
//	    mm.MemoryManager.mappingMu
//	      inode.mapsMu                who maps a file
//	        mm.MemoryManager.activeMu
//	          inode.filesMu           the descriptors and pages that are mapped
//	filesystem.devicesMu
package hostfs
