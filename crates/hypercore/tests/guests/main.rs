//! Real guests: real QEMU, the real `pod`, the real reference agent. Needs root and
//! what `./dev` prepares.

mod builds;
mod confined;
mod containers;
mod crash;
mod cycles;
mod deaths;
mod driver;
mod gvisor;
mod hostile;
mod machine;
mod names;
mod network;
mod node;
mod nodes;
mod probe;
mod shares;
mod shortage;
mod spawn;
