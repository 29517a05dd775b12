// Package tree is what the guest's filesystems over a disk and over a directory of the
// host have in common: the names of their files, the way along a path, the rules by which
// names come and go, and the files that are the kernel's own (FIFOs, sockets, devices).
//
// The words are Linux's. A dentry is a name in a directory, an inode a file; hard links
// are several dentries of one inode. What a file is, where its data lies and who may do
// what with it, the filesystem says: see Filesystem and Inode. A Tree, embedded in it,
// implements most of vfs.FilesystemImpl, a FileDescription most of
// vfs.FileDescriptionImpl.
//
// # Locks
//
// In the order in which they are taken:
//
//	what Filesystem.Changing takes    that the filesystem may be changed
//	Tree.renameMu                     the shape of the tree
//	  Dentry.cachingMu                whether a dentry is among the unreferenced
//	    Dentry.dirMu                  a directory; parents before children
//	      vfs mount and dentry locks  (taken by vfs.Prepare…Dentry)
//	        the locks of the inodes
//	Tree.inodesMu                     the table of inodes; see Tree.Inode
//	Tree.ancestryMu                   parent and name of dentries; under it nothing
//	Tree.cacheMu                      the list of unreferenced dentries; likewise
//	File.pipeMu
//
// References on dentries are dropped with no dirMu held.
package tree
