//! The shims of `runtimes/`, carried inside the binary: one file is all that a machine needs.

macro_rules! files {
    ($($path:literal)*) => {
        /// Relative path below `/var/runtime`, and contents.
        pub const FILES: &[(&str, &[u8])] =
            &[$(($path, include_bytes!(concat!("../../../runtimes/", $path)))),*];
    };
}

files! {
    "python/bootstrap.py"
    "python/_tidegate/__init__.py"
    "python/_tidegate/channel.py"
    "python/_tidegate/console.py"
    "python/_tidegate/context.py"
    "python/_tidegate/faults.py"
    "python/_tidegate/image.py"
    "python/_tidegate/imports.py"
    "python/_tidegate/jsontext.py"
    "python/_tidegate/logformat.py"
    "python/_tidegate/loop.py"
    "python/_tidegate/zygote.py"
    "python/zygote.py"
    "python/_tidegate/rehearsal.py"
    "python/_tidegate/several.py"
    "python/_tidegate/snapstart.py"
    "snapshot_restore_py.py"
    "nodejs/bootstrap.mjs"
    "nodejs/tidegate/assignment.mjs"
    "nodejs/tidegate/channel.mjs"
    "nodejs/tidegate/console.mjs"
    "nodejs/tidegate/errors.mjs"
    "nodejs/tidegate/handler.mjs"
    "nodejs/tidegate/instance.mjs"
    "nodejs/tidegate/invocation.mjs"
    "nodejs/tidegate/rehearsal-required.cjs"
    "nodejs/tidegate/rehearsal.mjs"
}
