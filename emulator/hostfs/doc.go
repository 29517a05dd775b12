// Package hostfs is a directory of the host as a filesystem of the guest.
//
// The words are Linux's. A dentry is a name in a directory, an inode a file of the host;
// hard links are several dentries of one inode. An export is a directory of the host that
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
//	filesystem.renameMu               the shape of the tree
//	  dentry.cachingMu                whether a dentry is among the unreferenced
//	    dentry.dirMu                  a directory; parents before children
//	      vfs mount and dentry locks  (taken by vfs.Prepare…Dentry)
//	        inode.mu                  what changes a file's attributes
//	          mm.MemoryManager.mappingMu
//	            inode.mapsMu          who maps a file
//	              mm.MemoryManager.activeMu
//	                inode.filesMu     the descriptors and pages that are mapped
//	filesystem.inodesMu               the table of inodes
//	filesystem.ancestryMu             parent and name of dentries; under it nothing
//	filesystem.cacheMu                the list of unreferenced dentries; likewise
//	inode.pipeMu, filesystem.devicesMu
//
// References on dentries are dropped with no dirMu held.
package hostfs
