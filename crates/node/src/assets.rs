//! tmp
use offshoot_model::Error;
use std::path::{Path, PathBuf};
pub fn lay_out(data: &Path) -> Result<PathBuf, Error> { Ok(data.to_owned()) }
