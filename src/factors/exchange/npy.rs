//! Plain arrays, as NumPy's `save` writes them.

use std::io;
use std::path::Path;

use ndarray_npy::WriteNpyExt;

use super::{Factors, Foreign, Side, matrix, read_file};
use crate::artefact::atomic_write;
use crate::error::Result;

pub(super) fn write(folder: &Path, factors: &Factors) -> Result<()> {
    for (name, rows) in [("users.npy", &factors.user_factors), ("tracks.npy", &factors.track_factors)] {
        atomic_write(&folder.join(name), |out| rows.write_npy(out).map_err(io::Error::other))?;
    }
    Ok(())
}

pub(super) fn read(folder: &Path) -> Result<Foreign> {
    let side = |name: &str| {
        let path = folder.join(name);
        matrix(&read_file(&path)?, &path, name).map(Side::in_order)
    };
    Ok(Foreign { users: side("users.npy")?, tracks: side("tracks.npy")?, regularisation: None })
}
