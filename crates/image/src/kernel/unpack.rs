//! Compressed kernels and modules, and the ELF kernel inside a `vmlinuz`.
//!
//! QEMU starts an ELF kernel with a PVH note without firmware's help: no real
//! mode, and no decompression by an emulated processor.

use std::io::{Read, Seek, Write};
use std::time::Duration;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};

use super::KernelError;
use crate::tool::HostTool;

const XZ_TOOL: HostTool = HostTool { name: "xz", package: "xz-utils", deadline: Duration::from_secs(60) };

const GZIP: &[u8] = &[0x1f, 0x8b];
pub(super) const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const ELF: &[u8] = &[0x7f, b'E', b'L', b'F'];

/// What a legacy LZ4 block holds at most when unpacked.
const LZ4_BLOCK: usize = 8 << 20;
/// Bytes a kernel or module may have when unpacked.
const MAX_UNPACKED: usize = 512 << 20;
/// The note in which a kernel names its PVH entry.
const XEN_ELFNOTE_PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);

/// Unpacks what is compressed; anything else is returned as it is.
pub(super) fn unpack(packed: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    if packed.starts_with(GZIP) {
        bounded(flate2::read::GzDecoder::new(&packed[..]))
    } else if packed.starts_with(ZSTD) {
        let mut input = &packed[..];
        bounded(ruzstd::decoding::StreamingDecoder::new(&mut input).map_err(KernelError::unpack)?)
    } else if packed.starts_with(LZ4_LEGACY) {
        lz4(&packed[LZ4_LEGACY.len()..])
    } else if packed.starts_with(XZ) {
        xz(&packed)
    } else {
        Ok(packed)
    }
}

fn bounded(from: impl Read) -> Result<Vec<u8>, KernelError> {
    let mut bytes = Vec::new();
    from.take(MAX_UNPACKED as u64).read_to_end(&mut bytes).map_err(KernelError::unpack)?;
    if bytes.len() == MAX_UNPACKED { Err(KernelError::unpack("larger than 512 MiB")) } else { Ok(bytes) }
}

/// The legacy frame the kernel's build uses: blocks behind their length, and no
/// end but the end of the data. The build appends the unpacked size, which is
/// what stops us.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut unpacked = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if rest.is_empty() && length == unpacked.len() {
            break;
        }
        let block = rest.get(..length).ok_or_else(|| KernelError::unpack("an LZ4 block is cut off"))?;
        let plain = lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(KernelError::unpack)?;
        unpacked.extend_from_slice(&plain);
        if unpacked.len() > MAX_UNPACKED {
            return Err(KernelError::unpack("larger than 512 MiB"));
        }
        blocks = &rest[length..];
    }
    Ok(unpacked)
}

/// No small library unpacks xz with the filters kernels use; every Debian has
/// the tool.
fn xz(packed: &[u8]) -> Result<Vec<u8>, KernelError> {
    let input = tempfile::tempfile().and_then(|mut file| {
        file.write_all(packed)?;
        file.rewind()?;
        Ok(file)
    });
    let input = input.map_err(KernelError::unpack)?;
    // The kernel's build appends bytes after the stream.
    bounded(XZ_TOOL.output(|c| c.args(["-dc", "--single-stream"]).stdin(input))?)
}

/// The ELF kernel with a PVH entry that a `vmlinuz` holds.
pub(super) fn vmlinux(vmlinuz: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let kernel = if vmlinuz.starts_with(ELF) { vmlinuz } else { unpack(payload(&vmlinuz)?.to_vec())? };
    if has_pvh_entry(&kernel) { Ok(kernel) } else { Err(KernelError::NoPvh) }
}

/// The compressed kernel in a bzImage: its boot protocol's header says where.
fn payload(vmlinuz: &[u8]) -> Result<&[u8], KernelError> {
    let field = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = vmlinuz.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if vmlinuz.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelError::NotAKernel);
    }
    let sectors = match vmlinuz[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = field(0x248).ok_or(KernelError::NotAKernel)? + (sectors + 1) * 512;
    let length = field(0x24c).ok_or(KernelError::NotAKernel)?;
    vmlinuz.get(start..start + length).ok_or(KernelError::NotAKernel)
}

fn has_pvh_entry(kernel: &[u8]) -> bool {
    let Ok(header) = elf::FileHeader64::<Endianness>::parse(kernel) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, kernel) else { return false };
    segments.iter().filter_map(|segment| segment.notes(endian, kernel).ok().flatten()).any(|mut notes| {
        std::iter::from_fn(|| notes.next().ok().flatten())
            .any(|note| note.name() == b"Xen" && note.n_type(endian) == XEN_ELFNOTE_PHYS32_ENTRY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_and_plain_bytes_are_unpacked_by_their_first_bytes() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"module").unwrap();
        assert_eq!(unpack(gz.finish().unwrap()).unwrap(), b"module");
        assert_eq!(unpack(b"module".to_vec()).unwrap(), b"module");
    }

    #[test]
    fn legacy_lz4_with_the_appended_size_is_unpacked() {
        let plain = b"kernel ".repeat(1000);
        let block = lz4_flex::block::compress(&plain);
        let mut packed = LZ4_LEGACY.to_vec();
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(&block);
        packed.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
        assert_eq!(unpack(packed).unwrap(), plain);
    }

    #[test]
    fn legacy_lz4_that_is_cut_off_is_refused() {
        let mut packed = LZ4_LEGACY.to_vec();
        packed.extend(100u32.to_le_bytes());
        packed.extend([1, 2, 3]);
        assert!(unpack(packed).is_err());
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(matches!(vmlinux(b"MZ nonsense".to_vec()), Err(KernelError::NotAKernel)));
        let mut elf = ELF.to_vec();
        elf.resize(64, 0);
        assert!(matches!(vmlinux(elf), Err(KernelError::NoPvh)));
    }
}
