//! That the list of shims is whole. Not beside the list, which the tests of `sandbox` use as well.

use crate::shims::FILES;
use std::collections::BTreeSet;
use std::path::Path;

fn sources(dir: &Path, found: &mut BTreeSet<String>, root: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found, root);
        } else if path.extension().is_some_and(|e| e == "py" || e == "mjs" || e == "cjs") {
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_shim_is_carried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes");
    let mut found = BTreeSet::new();
    sources(&root, &mut found, &root);
    let carried: BTreeSet<String> = FILES.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(found, carried);
}
