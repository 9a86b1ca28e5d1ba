//! OCI images to bootable disks, and the guest kernel.
