//! Section `socket denies`: the unix sockets that profiles deny.
//!
//! The record of 1.0 has only those that are open, and no reader may find another there. So they have a section, which a policy that denies none does not have: a list of
//! paths for each profile.

use crate::records::Meta;

/// Puts what the section says into the profiles.
pub(crate) fn put(denied: Vec<Vec<String>>, profiles: &mut [Meta]) -> Result<(), &'static str> {
    if denied.len() != profiles.len() {
        return Err("not as many lists as there are profiles");
    }
    for (meta, paths) in profiles.iter_mut().zip(denied) {
        if !paths.iter().all(|path| is_path(path)) {
            return Err("a path that is not absolute, or leads up");
        }
        if !paths.is_sorted_by(|a, b| a < b) {
            return Err("paths that are out of order");
        }
        meta.unix_sockets.deny = paths;
    }
    Ok(())
}

/// Whether a text is a path with one meaning. One that is none would deny nothing, and look as if it did.
fn is_path(text: &str) -> bool {
    let parts = text.strip_prefix('/').map(|rest| rest.split('/'));
    parts.is_some_and(|mut parts| !parts.any(|part| matches!(part, "" | "." | "..") || part.contains('\0')))
}

/// The section of these profiles; `None` where none of them denies any.
#[cfg(feature = "build")]
pub(crate) fn write(profiles: &[Meta]) -> Result<Option<Vec<u8>>, crate::BuildError> {
    let denied: Vec<&[String]> = profiles.iter().map(|meta| meta.unix_sockets.deny.as_slice()).collect();
    if denied.iter().all(|paths| paths.is_empty()) {
        return Ok(None);
    }
    // What no reader takes is not written.
    let read = denied.iter().map(|paths| paths.to_vec()).collect();
    put(read, &mut profiles.to_vec()).map_err(|what| crate::BuildError::Encode(format!("denied sockets: {what}")))?;
    crate::build::records(&denied).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(denied: &[&[&str]]) -> Result<Vec<Vec<String>>, &'static str> {
        let mut profiles = vec![Meta::default(); 2];
        let paths = |paths: &&[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        put(denied.iter().map(paths).collect(), &mut profiles)?;
        Ok(profiles.into_iter().map(|meta| meta.unix_sockets.deny).collect())
    }

    #[test]
    fn each_profile_has_its_own() {
        assert_eq!(read(&[&[], &["/a b/\u{e9}.sock", "/run/..a/.b"]]).unwrap(), [vec![], vec!["/a b/\u{e9}.sock", "/run/..a/.b"]]);
        assert_eq!(read(&[&[], &[]]).unwrap(), [Vec::<String>::new(), Vec::new()]);
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let (path, order) = ("a path that is not absolute, or leads up", "paths that are out of order");
        for (denied, what) in [
            (&[&["/a"] as &[&str]] as &[&[&str]], "not as many lists as there are profiles"),
            (&[&["/a"], &[], &[]], "not as many lists as there are profiles"),
            (&[&["a"], &[]], path),
            (&[&[""], &[]], path),
            (&[&["/"], &[]], path),
            (&[&["/run/"], &[]], path),
            (&[&["/run//a"], &[]], path),
            (&[&["/run/./a"], &[]], path),
            (&[&[], &["/a", "/run/../a"]], path),
            (&[&[], &["/a\0b"]], path),
            (&[&["/b", "/a"], &[]], order),
            (&[&["/a", "/a"], &[]], order),
        ] {
            assert_eq!(read(denied), Err(what), "{denied:?}");
        }
    }
}
