//! The file in which the tiles that were measured on an adapter are kept: its own, in the user's folder for settings, to be kept or
//! deleted.

use super::user_folder;
use crate::error::io;
use crate::files::{folder_of, replace_json, temporary};
use crate::ops::tile::Tuned;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Names of files that are being written begin with this.
const ASIDE: &str = ".tauten-tiles-";

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// The driver that the tiles were measured with: another may compile them otherwise.
    pub driver: String,
    /// The tiles.
    pub tiles: Vec<Tuned>,
}

/// The file of the adapter of this name.
pub(super) fn file(adapter: &str) -> Option<PathBuf> {
    let folder = user_folder([("XDG_CONFIG_HOME", ""), ("APPDATA", ""), ("HOME", ".config")])?;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = adapter.chars().map(plain).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    Some(folder.join(format!("tiles-{}.json", words.join("-"))))
}

/// What stands in `file`.
///
/// # Errors
///
/// A file that cannot be read, or is no such file.
pub fn read(file: &Path) -> Result<Choices> {
    let text = std::fs::read_to_string(file).map_err(io(file))?;
    let choices: Choices = serde_json::from_str(&text).map_err(|e| {
        Error::user(format!("{}: no choice of tiles ({e}); delete it, or run `tauten tune` again", file.display()))
    })?;
    if let Some(wrong) = choices.tiles.iter().find(|t| !t.chosen.is_possible(t.shape)) {
        let (file, tile, slices) = (file.display(), wrong.chosen.tile, wrong.chosen.slices);
        return Err(Error::user(format!(
            "{file}: there is no tile of {} x {} invocations, {} x {} blocks, depth {} in {slices} slices; delete the file, or run \
             `tauten tune` again",
            tile.height, tile.width, tile.rows, tile.columns, tile.depth
        )));
    }
    Ok(choices)
}

/// Makes the folder of `file` and sees whether it can be written, before what it is to hold is measured.
///
/// # Errors
///
/// What the file system reports; a folder of this name.
pub fn make_room(file: &Path) -> Result<()> {
    if file.is_dir() {
        return Err(Error::user(format!("{}: is a folder; name a file", file.display())));
    }
    let folder = folder_of(file);
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    temporary(folder, ASIDE).map(drop).map_err(io(folder))
}

/// Keeps `choices` in `file`.
///
/// # Errors
///
/// What the file system reports.
pub fn write(file: &Path, choices: &Choices) -> Result<()> {
    make_room(file)?;
    replace_json(file, ASIDE, choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn room_is_made_where_a_file_can_be() {
        let home = tempfile::tempdir().unwrap();
        make_room(&home.path().join("new/tiles.json")).unwrap();
        assert_eq!(std::fs::read_dir(home.path().join("new")).unwrap().count(), 0);
        let refused = |name: &str| make_room(&home.path().join(name)).unwrap_err();
        assert!(refused("new").to_string().ends_with("/new: is a folder; name a file"));
        std::fs::write(home.path().join("file"), "").unwrap();
        assert_eq!(refused("file/tiles.json").exit_code(), 2);
    }
}
