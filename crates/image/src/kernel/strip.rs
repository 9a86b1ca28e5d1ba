//! Modules without what only serves their debugging or their proof.
//!
//! A guest loads a dozen modules before it is of use, and an emulated processor
//! feels everything the kernel does with them. The host makes the whole initramfs,
//! so a signature in it proves nothing. What only BPF, traces of functions and the
//! stack of an oops read is sorted, copied and linked at each load, for nobody.

use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, elf, pod};

use super::modules::ModuleInfo;

/// What ends a signed module.
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// The record before it, whose last four bytes are the signature's length.
const SIGNATURE_RECORD: usize = 12;

/// Sections the kernel looks for and does without: types for BPF, the tables by
/// which it walks stacks, and the places where it could trace functions.
const UNUSED: [&[u8]; 4] = [b".BTF", b".orc_unwind", b".orc_unwind_ip", b"__mcount_loc"];
/// What a section is aligned to at most: a page.
const MAX_ALIGNMENT: u64 = 4096;
/// So many times its size a module may have on the way; what fills up between sections
/// is less than that.
const MAX_GROWTH: usize = 2;

type Header = elf::FileHeader64<Endianness>;
type Section = elf::SectionHeader64<Endianness>;

/// A module as guests load it; what cannot be read as one is left as it is, and so is
/// one that would not say afterwards what it needs.
pub(super) fn strip(module: &[u8]) -> Vec<u8> {
    let bare = unsigned(module);
    let mut ways = without_unused(bare).into_iter().chain([bare.to_vec()]);
    let needs = ModuleInfo::of(module);
    ways.find(|stripped| ModuleInfo::of(stripped) == needs).unwrap_or_else(|| module.to_vec())
}

fn unsigned(module: &[u8]) -> &[u8] {
    cut(module).unwrap_or(module)
}

fn cut(module: &[u8]) -> Option<&[u8]> {
    let record = module.strip_suffix(SIGNED)?;
    let length = u32::from_be_bytes(*record.last_chunk::<4>()?);
    record.get(..record.len().checked_sub(SIGNATURE_RECORD + usize::try_from(length).ok()?)?)
}

/// The same file with its sections moved together. Those left out keep their
/// places in the table, as headers of zeros, so that no index changes its meaning.
fn without_unused(module: &[u8]) -> Option<Vec<u8>> {
    let header = Header::parse(module).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, module).ok()?;
    let unused = |section: &Section| sections.section_name(endian, section).is_ok_and(|name| UNUSED.contains(&name));
    let mut written = pod::bytes_of(header).to_vec();
    let mut table = Vec::new();
    for section in sections.iter() {
        let relocates = section.sh_type(endian) == elf::SHT_RELA;
        if unused(section) || relocates && sections.section(section.info_link(endian)).is_ok_and(unused) {
            table.extend([0; size_of::<Section>()]);
            continue;
        }
        let mut moved = *section;
        if section.sh_type(endian) != elf::SHT_NULL {
            align(&mut written, section.sh_addralign(endian))?;
            moved.sh_offset.set(endian, written.len() as u64);
            written.extend(section.data(endian, module).ok()?);
            // In a sound module no two sections share their bytes.
            (written.len() <= MAX_GROWTH * module.len()).then_some(())?;
        }
        table.extend(pod::bytes_of(&moved));
    }
    align(&mut written, align_of::<u64>() as u64)?;
    let mut header = *header;
    header.e_shoff.set(endian, written.len() as u64);
    written.splice(..size_of::<Header>(), pod::bytes_of(&header).iter().copied());
    written.extend(table);
    Some(written)
}

/// Fills up to a place where a section may begin.
fn align(bytes: &mut Vec<u8>, to: u64) -> Option<()> {
    let to = usize::try_from(to.max(1)).ok().filter(|_| to <= MAX_ALIGNMENT)?;
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_signature_is_cut_off_and_nothing_else() {
        let mut signed = b"ELF code".to_vec();
        signed.extend([9; 30]);
        signed.extend([0; 8]);
        signed.extend(30u32.to_be_bytes());
        signed.extend(SIGNED);
        assert_eq!(strip(&signed), b"ELF code");
        assert_eq!(strip(b"ELF code"), b"ELF code");
    }

    #[test]
    fn a_signature_longer_than_its_module_cuts_nothing() {
        let mut odd = b"x".to_vec();
        odd.extend([0; 8]);
        odd.extend(u32::MAX.to_be_bytes());
        odd.extend(SIGNED);
        assert_eq!(strip(&odd), odd);
    }

    /// A section: its name, its type, what it relocates, its alignment, its bytes.
    type Given = (&'static str, u32, u32, u64, &'static [u8]);

    const SECTIONS: [Given; 8] = [
        ("", 0, 0, 0, b""),
        (".text", 1, 0, 16, b"code"),
        (".BTF", 1, 0, 1, b"types"),
        ("__mcount_loc", 1, 0, 1, b"places"),
        (".rela__mcount_loc", 4, 3, 8, b"where the places are"),
        (".rela.text", 4, 1, 8, b"where the code is"),
        (".bss", 8, 0, 32, b""),
        (".shstrtab", 3, 0, 1, b""),
    ];

    fn module(alignment: u64) -> Vec<u8> {
        let words = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let names: String = SECTIONS.iter().map(|(name, ..)| format!("{name}\0")).collect();
        let (mut data, mut table, mut name) = (Vec::new(), Vec::new(), 0_u32);
        for (at, (called, kind, of, align, bytes)) in SECTIONS.into_iter().enumerate() {
            let bytes = if called == ".shstrtab" { names.as_bytes() } else { bytes };
            let align = if at == 1 { alignment } else { align };
            table.extend([name, kind].map(u32::to_le_bytes).concat());
            table.extend(words(&[0, 0, 64 + data.len() as u64, bytes.len() as u64]));
            table.extend([0, of].map(u32::to_le_bytes).concat());
            table.extend(words(&[align, 0]));
            data.extend(bytes);
            name += u32::try_from(called.len()).unwrap() + 1;
        }
        data.resize(data.len().next_multiple_of(8), 0);
        let mut module = b"\x7fELF\x02\x01\x01".to_vec();
        module.resize(16, 0);
        module.extend([1_u16, 62].map(u16::to_le_bytes).concat());
        module.extend(1_u32.to_le_bytes());
        module.extend(words(&[0, 0, 64 + data.len() as u64]));
        module.extend([0_u16, 0, 64, 0, 0, 64, 8, 7].map(u16::to_le_bytes).concat());
        [module, data, table].concat()
    }

    /// What a module's section of this index holds; `None` where there is none.
    fn section(module: &[u8], index: usize) -> Option<(&[u8], &[u8])> {
        let header = Header::parse(module).unwrap();
        let endian = header.endian().unwrap();
        let sections = header.sections(endian, module).unwrap();
        let section = sections.section(object::SectionIndex(index)).unwrap();
        let align = section.sh_addralign(endian).max(1);
        assert_eq!(section.sh_offset(endian) % align, 0);
        let there = section.sh_type(endian) != elf::SHT_NULL;
        there.then(|| (sections.section_name(endian, section).unwrap(), section.data(endian, module).unwrap()))
    }

    #[test]
    fn what_only_debugging_reads_is_left_out_and_the_rest_keeps_its_places() {
        let stripped = strip(&module(16));
        for gone in [2, 3, 4] {
            assert_eq!(section(&stripped, gone), None);
        }
        for kept in [1, 5, 6] {
            let (name, .., bytes) = SECTIONS[kept];
            assert_eq!(section(&stripped, kept), Some((name.as_bytes(), bytes)));
        }
        assert!(!stripped.windows(6).any(|bytes| bytes == b"places"), "its bytes are gone as well");
        assert_eq!(strip(&stripped), stripped);
    }

    #[test]
    fn a_module_of_an_odd_shape_is_left_as_it_is() {
        for odd in [module(1 << 40), module(16)[..200].to_vec()] {
            assert_eq!(strip(&odd), odd);
        }
    }
}
