//! Where the network runs: on the CPU, or on a GPU through one of burn's backends.
//!
//! | device | built with | what the machine must have |
//! |---|---|---|
//! | `cpu` | always | nothing |
//! | `wgpu` | `--features wgpu` | an adapter for Vulkan (the loader, Debian's `libvulkan1`, and the card's driver or Mesa's), Metal or Direct3D 12 |
//! | `vulkan` | `--features vulkan` | the same, for Vulkan; shaders are SPIR-V rather than WGSL, for `wgpu` too |
//! | `cuda` | `--features cuda` | an NVIDIA driver and the CUDA toolkit's NVRTC and headers; **not tested** |
//!
//! None has run on a card yet. `wgpu` was run on two drivers that compute on the processor, Mesa's lavapipe 22.3 and
//! SwiftShader: its vectors equal the processor's to 1e-7. The SPIR-V of `vulkan` crashes the first and is multiplied wrongly
//! by the second; a device's answer to a batch of noise is compared before it is used, so that the second is refused.
//! burn's `cuda` cannot be built without access to the Internet: a build script downloads LLVM.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device as BurnDevice;

use crate::error::{Error, Result};

/// Where the network runs. As text: `cpu`, `cuda`, `wgpu`, `vulkan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Cpu,
    Cuda,
    Wgpu,
    Vulkan,
    /// burn's backend for the CPU: what tests have of a device.
    #[cfg(test)]
    Flex,
}

impl Device {
    /// All of them, built in or not.
    pub const ALL: [Device; 4] = [Device::Cpu, Device::Cuda, Device::Wgpu, Device::Vulkan];

    /// burn's name for it.
    ///
    /// # Errors
    /// `Invalid` where this program was built without it, or the machine has none.
    pub(super) fn of_burn(self) -> Result<BurnDevice> {
        match self {
            Device::Cpu => Ok(BurnDevice::flex()),
            #[cfg(test)]
            Device::Flex => Ok(BurnDevice::flex()),
            #[cfg(feature = "cuda")]
            Device::Cuda => found(self, burn::tensor::DeviceType::Cuda, || BurnDevice::cuda(0)),
            #[cfg(feature = "wgpu")]
            Device::Wgpu => found(self, burn::tensor::DeviceType::Wgpu, || {
                BurnDevice::wgpu(burn::tensor::DeviceKind::DefaultDevice)
            }),
            #[cfg(feature = "vulkan")]
            Device::Vulkan => found(self, burn::tensor::DeviceType::Vulkan, || {
                BurnDevice::vulkan(burn::tensor::DeviceKind::DefaultDevice)
            }),
            #[cfg(not(all(feature = "cuda", feature = "wgpu", feature = "vulkan")))]
            _ => {
                let expected = format!("one that this program was built with (cargo build --features {self})");
                Err(Error::invalid("device", expected, self))
            }
        }
    }
}

/// The device, if the machine has one of its kind: burn would panic at the first tensor.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
fn found(device: Device, kind: burn::tensor::DeviceType, open: impl FnOnce() -> BurnDevice) -> Result<BurnDevice> {
    match BurnDevice::enumerate(kind).is_empty() {
        true => Err(Error::invalid("device", "one that this machine has", format!("no adapter for {device}"))),
        false => Ok(open()),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::Wgpu => "wgpu",
            Device::Vulkan => "vulkan",
            #[cfg(test)]
            Device::Flex => "flex",
        })
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let named = Device::ALL.into_iter().find(|d| d.to_string() == text);
        named.ok_or_else(|| Error::invalid("device", "cpu, cuda, wgpu or vulkan", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in Device::ALL {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert!("gpu".parse::<Device>().unwrap_err().to_string().contains("vulkan"));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_device_that_was_not_built_in_is_refused_with_the_way_to_build_it() {
        assert!(Device::Cuda.of_burn().unwrap_err().to_string().contains("--features cuda"));
    }
}
