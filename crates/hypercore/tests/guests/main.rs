//! Real guests: real QEMU, the real `pod`, the real reference agent. Needs root and
//! what `./dev` prepares.

mod apart;
mod confined;
mod crash;
mod cycles;
mod driver;
mod house;
mod lack;
mod machine;
mod network;
mod nodes;
mod probe;
mod shares;
mod spawn;
