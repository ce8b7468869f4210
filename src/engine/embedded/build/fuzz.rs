//! What must hold of image configs whatever their bytes: for fuzzers and the smoke run (`crate::fuzz`). Panics where it does not.

use super::config::Image;
use crate::image::ImageConfig;

/// The bytes of a config. What is written of it reads as the same and is written the same again, and both readers of configs agree.
pub fn config(data: &[u8]) {
    let short = ImageConfig::parse(data);
    let Ok(image) = serde_json::from_slice::<Image>(data) else { return };
    let agree = |image: &Image, short: &ImageConfig| {
        assert_eq!(image.config.env, short.env);
        assert_eq!(image.config.user, short.user);
        assert_eq!(image.config.working_dir, short.working_dir);
        assert_eq!(image.config.shell, short.shell);
        assert_eq!(image.config.on_build, short.on_build);
        assert_eq!(image.rootfs.diff_ids, short.diff_ids);
    };
    if let Ok(short) = &short {
        agree(&image, short);
    }
    let created = "1980-01-01T00:00:00Z";
    let write = |image: &Image| image.to_bytes(created).unwrap_or_else(|error| panic!("{error}"));
    let written = write(&image);
    let again: Image = serde_json::from_slice(&written).unwrap_or_else(|error| panic!("what is written does not read: {error}"));
    assert_eq!(write(&again), written, "written again it is other bytes");
    agree(&image, &ImageConfig::parse(&written).unwrap_or_else(|error| panic!("what is written does not read: {error}")));
    let base = image.into_base();
    assert!(base.config.on_build.is_empty() && base.config.env.iter().any(|variable| variable.starts_with("PATH=")));
}
