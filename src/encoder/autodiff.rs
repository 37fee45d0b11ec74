//! A training step's two passes through the network, by burn's automatic differentiation.

use burn::tensor::{Device, Tensor};
use ndarray::{Array2, Array3};

use super::dataset::tensor;
use super::{AudioEncoder, EncoderConfig, Weights};
use crate::error::{Error, Result};

/// What the forward pass keeps for the backward pass.
pub(crate) struct Tape {
    net: AudioEncoder,
    outputs: Tensor<2>,
}

/// From spectrograms `[b, frames, mel_bands]` to outputs `[b, dimensions]`. `dropout`: what the two hidden dense layers'
/// outputs `[b, dense]` are multiplied by.
pub(crate) fn forward(
    encoder: &EncoderConfig,
    weights: &Weights,
    mels: Array3<f32>,
    dropout: Option<[Array2<f32>; 2]>,
) -> Result<(Array2<f32>, Tape)> {
    let device = Device::flex().autodiff();
    let net = AudioEncoder::new(encoder, weights, &device);
    let dropout = dropout.map(|masks| masks.map(|mask| tensor::<2, _>(mask, &device)));
    let rows = mels.dim().0;
    let outputs = net.forward(tensor(mels, &device), dropout);
    let numbers = outputs.clone().inner().into_data().try_into_vec_as().map_err(unread)?;
    let answers = Array2::from_shape_vec((rows, encoder.dimensions), numbers)
        .map_err(|e| Error::mismatch("the network's answer", format!("{rows} rows"), e))?;
    Ok((answers, Tape { net, outputs }))
}

impl Tape {
    /// The gradient by each of the 14 slices of [`Weights::slices_mut`], from that by the outputs `[b, dimensions]`.
    pub fn backward(self, d_outputs: Array2<f32>) -> Result<Vec<Vec<f32>>> {
        let device = Device::flex().autodiff();
        let mut grads = (self.outputs * tensor::<2, _>(d_outputs, &device)).sum().backward();
        let missing = || Error::invalid("a gradient", "one for each weight", "none");
        let mut slices = Vec::with_capacity(2 * self.net.layers.len());
        for layer in &self.net.layers {
            let weight = layer.weight.val().grad_remove(&mut grads).ok_or_else(missing)?;
            let bias = layer.bias.val().grad_remove(&mut grads).ok_or_else(missing)?;
            slices.push(weight.into_data().try_into_vec_as().map_err(unread)?);
            slices.push(bias.into_data().try_into_vec_as().map_err(unread)?);
        }
        Ok(slices)
    }
}

fn unread(e: impl std::fmt::Debug) -> Error {
    Error::invalid("a tensor", "32-bit floats", format!("{e:?}"))
}
