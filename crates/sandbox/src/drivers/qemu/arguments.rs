//! QEMU's command line. Pure.

use std::os::fd::RawFd;

use super::jail::{INITRAMFS, VMLINUX};
use super::probe::Accelerator;
use crate::network::Tap;

/// A disk that is handed over as an open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) serial: &'static str,
    pub(super) fd: RawFd,
    pub(super) read_only: bool,
}

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct CommandLine<'a> {
    pub(super) name: &'a str,
    pub(super) accelerator: Accelerator,
    pub(super) cores: u32,
    pub(super) memory_mib: u64,
    /// What an emulated guest's VMM keeps of translated code, at most. QEMU's own default
    /// would be an eighth of the machine's memory.
    pub(super) translation_cache_mib: u64,
    /// The host's TSC, where the kernel cannot find out for itself.
    pub(super) tsc_khz: u64,
    /// Further words for the kernel.
    pub(super) words: &'a str,
    pub(super) disks: &'a [Disk],
    pub(super) tap: Option<RawFd>,
    /// Sockets that listen.
    pub(super) control: RawFd,
    pub(super) console: RawFd,
}

impl CommandLine<'_> {
    /// The arguments, without the program.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = self.board();
        for disk in self.disks {
            arguments.extend(disk.arguments());
        }
        if let Some(tap) = self.tap {
            arguments.extend(words(&["-netdev", &format!("tap,id=net,fd={tap}")]));
            arguments.extend(words(&[
                "-device",
                &format!("virtio-net-pci,netdev=net,mac={},romfile=,disable-legacy=on", Tap::MAC),
            ]));
        }
        arguments
    }

    fn board(&self) -> Vec<String> {
        let accelerator = match self.accelerator {
            Accelerator::Kvm => "kvm".to_owned(),
            Accelerator::Tcg => format!("tcg,thread=multi,tb-size={}", self.translation_cache_mib),
        };
        let kernel = self.kernel_words();
        words(&[
            "-name",
            self.name,
            "-machine",
            "microvm,pcie=on,rtc=on,dump-guest-core=off,mem-merge=off",
            "-accel",
            &accelerator,
            "-cpu",
            // What a guest could use to run guests of its own is the host's most complex code.
            "max,-vmx,-svm",
            "-smp",
            &self.cores.to_string(),
            "-m",
            &self.memory_mib.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-kernel",
            VMLINUX,
            "-initrd",
            INITRAMFS,
            "-append",
            &kernel,
            "-chardev",
            &format!("socket,id=control,fd={},server=on,wait=off", self.control),
            "-mon",
            "chardev=control,mode=control",
            "-chardev",
            &format!("socket,id=console,fd={},server=on,wait=off", self.console),
            "-serial",
            "chardev:console",
        ])
    }

    fn kernel_words(&self) -> String {
        let mut kernel = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests".to_owned();
        match self.accelerator {
            Accelerator::Kvm => {}
            // The machine has no timer against which the kernel could measure the TSC
            // in time; without these words about half of the boots hang.
            Accelerator::Tcg => kernel.push_str(&format!(" tsc=reliable tsc_early_khz={}", self.tsc_khz)),
        }
        if !self.words.is_empty() {
            kernel.push(' ');
            kernel.push_str(self.words);
        }
        kernel
    }
}

impl Disk {
    fn arguments(&self) -> Vec<String> {
        let Self { serial, fd, .. } = self;
        let access = if self.read_only { "read-only=on" } else { "discard=unmap" };
        words(&[
            "-add-fd",
            &format!("fd={fd},set={fd}"),
            "-blockdev",
            // Two VMMs never share a writable disk: its open file is locked before it comes here.
            &format!(
                "driver=raw,node-name={serial},{access},file.driver=file,file.filename=/dev/fdset/{fd},file.locking=off"
            ),
            "-device",
            // A fault of the host's disk stops the guest until it is mended, and never
            // reaches the guest, which would take its own disk for broken.
            &format!("virtio-blk-pci,drive={serial},serial={serial},disable-legacy=on,werror=stop,rerror=stop"),
        ])
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_line(accelerator: Accelerator) -> CommandLine<'static> {
        CommandLine {
            name: "a1b2c3d4-e5f6-7890",
            accelerator,
            cores: 2,
            memory_mib: 512,
            translation_cache_mib: 256,
            tsc_khz: 2_000_000,
            words: "",
            disks: &[Disk { serial: "base", fd: 7, read_only: true }, Disk { serial: "data", fd: 8, read_only: false }],
            tap: Some(9),
            control: 10,
            console: 11,
        }
    }

    #[test]
    fn a_shared_disk_is_never_writable() {
        let line = command_line(Accelerator::Tcg).arguments().join(" ");
        assert!(line.contains("node-name=base,read-only=on"), "{line}");
        assert!(line.contains("node-name=data,discard=unmap"), "{line}");
    }

    #[test]
    fn fault_1_6_a_fault_of_the_hosts_disk_stops_the_guest_instead_of_reaching_it() {
        let arguments = command_line(Accelerator::Tcg).arguments();
        let disks: Vec<_> = arguments.iter().filter(|word| word.starts_with("virtio-blk-pci")).collect();
        assert_eq!(disks.len(), 2);
        assert!(disks.iter().all(|disk| disk.contains("werror=stop,rerror=stop")), "{disks:?}");
    }

    #[test]
    fn only_an_emulated_guest_is_told_the_hosts_clock_rate() {
        assert!(command_line(Accelerator::Tcg).arguments().join(" ").contains("tsc_early_khz=2000000"));
        assert!(!command_line(Accelerator::Kvm).arguments().join(" ").contains("tsc"));
    }

    #[test]
    fn an_emulated_guest_alone_has_a_cache_of_translated_code_of_the_size_that_is_set() {
        assert!(command_line(Accelerator::Tcg).arguments().contains(&"tcg,thread=multi,tb-size=256".to_owned()));
        assert!(!command_line(Accelerator::Kvm).arguments().join(" ").contains("tb-size"));
    }

    #[test]
    fn fault_1_8_no_guest_is_offered_to_run_guests_of_its_own() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert!(command_line(accelerator).arguments().contains(&"max,-vmx,-svm".to_owned()));
        }
    }

    #[test]
    fn a_machine_without_a_card_has_none() {
        let bare = CommandLine { tap: None, disks: &[], ..command_line(Accelerator::Kvm) };
        let line = bare.arguments().join(" ");
        assert!(!line.contains("virtio"), "{line}");
    }
}
