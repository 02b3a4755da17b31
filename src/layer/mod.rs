//! Layer trees ↔ tar streams ↔ blobs.
//!
//! Owns: the tar dialect (entry order, whiteouts, xattrs, times), unpacking of layer tars, compression, which compressed
//! forms of a layer exist.
//! In:   a finished layer tree (`snapshot::upper`, `snapshot::builder`), or a layer blob.
//! Out:  [`Layer`]: a published tree and its [`DiffId`]; on request a tar stream or a compressed blob.
//! Spec: OCI image-spec v1.1, "Image Layer Filesystem Changeset".
//! Elsewhere: what belongs into the tree (`snapshot`), naming the image (`image`).
