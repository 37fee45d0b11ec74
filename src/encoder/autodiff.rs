//! A training step's two passes through the network, by burn's automatic differentiation.

use burn::tensor::{Device, Tensor};
use ndarray::{Array2, ArrayView2, ArrayView3};

use super::dataset::tensor;
use super::{AudioEncoder, EncoderConfig, Weights};
use crate::error::{Error, Result};

/// What the forward pass keeps for the backward pass.
pub(crate) struct Tape {
    encoder: EncoderConfig,
    kept: Option<(AudioEncoder, Tensor<2>)>,
}

impl Tape {
    pub fn new(encoder: &EncoderConfig) -> Tape {
        Tape { encoder: encoder.clone(), kept: None }
    }

    /// From spectrograms `[b, frames, mel_bands]` to outputs `[b, dimensions]`. `dropout`: what the two hidden dense layers'
    /// outputs `[b, dense]` are multiplied by.
    pub fn forward(
        &mut self,
        weights: &Weights,
        mels: ArrayView3<f32>,
        dropout: Option<&[Array2<f32>; 2]>,
    ) -> Result<Array2<f32>> {
        let device = Device::flex().autodiff();
        let net = AudioEncoder::new(&self.encoder, weights, &device);
        let dropout = dropout.map(|masks| masks.clone().map(|mask| tensor::<2, _>(mask, &device)));
        let outputs = net.forward(tensor(mels.to_owned(), &device), dropout);
        let numbers = outputs.clone().inner().into_data().try_into_vec_as().map_err(unread)?;
        self.kept = Some((net, outputs));
        Array2::from_shape_vec((mels.dim().0, self.encoder.dimensions), numbers)
            .map_err(|e| Error::mismatch("the network's answer", format!("{} rows", mels.dim().0), e))
    }

    /// The gradient by each of the 14 slices of [`Weights::slices_mut`], from that by the outputs `[b, dimensions]`.
    pub fn backward(&mut self, d_outputs: ArrayView2<f32>) -> Result<Vec<Vec<f32>>> {
        let missing = || Error::invalid("a gradient", "one for each weight", "none");
        let (net, outputs) = self.kept.take().ok_or_else(missing)?;
        let device = Device::flex().autodiff();
        let mut grads = (outputs * tensor::<2, _>(d_outputs.to_owned(), &device)).sum().backward();
        let mut slices = Vec::with_capacity(2 * net.layers.len());
        for layer in &net.layers {
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
