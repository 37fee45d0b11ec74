//! The npz file of implicit's `save`: a ZIP archive, not compressed, of one npy file for each of the model's fields.
//! Fields that are left out keep implicit's defaults when it loads.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use ndarray::{ArrayView0, arr0};
use ndarray_npy::{ViewNpyExt, WriteNpyExt};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{Factors, Foreign, Side, matrix, open};
use crate::artefact::atomic_write;
use crate::error::{Error, Result};

pub(super) fn write(path: &Path, factors: &Factors) -> Result<()> {
    let npy = |array: &dyn Fn(&mut Vec<u8>) -> Result<(), ndarray_npy::WriteNpyError>| {
        let mut bytes = Vec::new();
        array(&mut bytes).map_err(io::Error::other).map(|()| bytes)
    };
    atomic_write(path, |out| {
        let mut zip = ZipWriter::new(out);
        let mut put = |name: &str, bytes: io::Result<Vec<u8>>| {
            let bytes = bytes?;
            let large = bytes.len() > u32::MAX as usize;
            // The default time, 1980, is that of NumPy's archives too: the same factors, the same bytes.
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
            zip.start_file(format!("{name}.npy"), options).map_err(io::Error::other)?;
            zip.write_all(&bytes)
        };
        put("user_factors", npy(&|out| factors.user_factors.write_npy(out)))?;
        put("item_factors", npy(&|out| factors.track_factors.write_npy(out)))?;
        put("factors", npy(&|out| arr0(factors.dimensions() as i64).write_npy(out)))?;
        put("regularization", npy(&|out| arr0(f64::from(factors.config.regularisation)).write_npy(out)))?;
        put("iterations", npy(&|out| arr0(factors.config.iterations as i64).write_npy(out)))?;
        zip.finish().map_err(io::Error::other)?;
        Ok(())
    })
}

pub(super) fn read(path: &Path) -> Result<Foreign> {
    let (file, length) = open(path)?;
    let whole = |e: zip::result::ZipError| Error::format(path, "a whole npz file, as implicit's save writes it", e);
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(whole)?;
    let mut field = |name: &str| -> Result<Vec<u8>> {
        let entry = zip.by_name(&format!("{name}.npy")).map_err(whole)?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(Error::unsupported(path, "arrays that are not compressed", "a compressed one"));
        }
        // It is as long as it is stored, so no longer than the file.
        let size = entry.size();
        if size > length {
            return Err(Error::format(path, format!("{name} of at most {length} bytes"), size));
        }
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(|e| Error::format(path, format!("{name} whole"), e))?;
        Ok(bytes)
    };
    let (users, tracks) = (field("user_factors")?, field("item_factors")?);
    let regularisation = match field("regularization") {
        // A scalar of whatever width; one that is none of these is no reason to refuse the vectors.
        Ok(bytes) => (ArrayView0::<f64>::view_npy(&bytes).ok().map(|v| v[()] as f32))
            .or_else(|| ArrayView0::<f32>::view_npy(&bytes).ok().map(|v| v[()]))
            .or_else(|| ArrayView0::<i64>::view_npy(&bytes).ok().map(|v| v[()] as f32)),
        Err(_) => None,
    };
    Ok(Foreign {
        users: Side::in_order(matrix(&users, path, "user_factors")?),
        tracks: Side::in_order(matrix(&tracks, path, "item_factors")?),
        regularisation: regularisation.filter(|λ| λ.is_finite()),
    })
}

#[test]
fn doubles_and_fortran_order_are_taken_and_a_false_shape_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.npz");
    let write = |users: &[u8]| {
        let mut zip = ZipWriter::new(std::fs::File::create(&path).unwrap());
        for name in ["user_factors", "item_factors"] {
            zip.start_file(
                format!("{name}.npy"),
                SimpleFileOptions::default().compression_method(CompressionMethod::Stored),
            )
            .unwrap();
            zip.write_all(users).unwrap();
        }
        zip.finish().unwrap();
    };
    let array = ndarray::array![[1.5f64, 2.0, -3.0], [0.0, 0.25, 1e-3]];
    let mut bytes = Vec::new();
    array.t().write_npy(&mut bytes).unwrap();
    write(&bytes);
    assert_eq!(read(&path).unwrap().users.factors, array.t().mapv(|x| x as f32));
    // A header that claims more than there is.
    let mut huge = bytes.clone();
    let at = huge.windows(6).position(|w| w == b"(3, 2)").unwrap();
    huge.splice(at..at + 22, *b"(1000000, 1000000)    ");
    write(&huge);
    assert!(matches!(read(&path), Err(Error::Format { .. })));
}
