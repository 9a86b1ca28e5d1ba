//! The kernel's random number generator: a machine that has just booted has
//! nothing of its own to seed it with.

use std::io;

use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};
use zeroize::Zeroize as _;

use crate::step::{Context as _, StepError};

/// The kernel's `struct rand_pool_info`, with room for the most that is taken.
#[repr(C)]
struct PoolInfo {
    bits: i32,
    bytes: i32,
    pool: [u8; 512],
}

const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
const RNDRESEEDCRNG: Opcode = opcode::none(b'R', 0x07);

/// Credits the bytes to the kernel's generator and has it use them at once.
#[expect(unsafe_code, reason = "ioctls: the opcodes take exactly these arguments, and only read them")]
pub(super) fn add(entropy: &[u8]) -> Result<(), StepError> {
    let device = std::fs::OpenOptions::new().write(true).open("/dev/urandom").context("open /dev/urandom")?;
    let bytes = i32::try_from(entropy.len()).map_err(io::Error::other).context("count the entropy")?;
    let mut info = PoolInfo { bits: bytes * 8, bytes, pool: [0; 512] };
    info.pool[..entropy.len()].copy_from_slice(entropy);
    // SAFETY: RNDADDENTROPY reads two integers and as many bytes as the second
    // says, which is at most the pool's size; RNDRESEEDCRNG has no argument.
    let (added, reseeded) = unsafe {
        let added = ioctl(&device, Updater::<RNDADDENTROPY, PoolInfo>::new(&mut info));
        (added, ioctl(&device, IntegerSetter::<RNDRESEEDCRNG>::new_usize(0)))
    };
    info.pool.zeroize();
    added.context("add entropy")?;
    reseeded.context("reseed the kernel's generator")
}
