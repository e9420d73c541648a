//! What is shipped: uploaded files, builds, updates, rollbacks, and the
//! clean-up of storage (management.md §6, §7, §14, §17).
//!
//! How files and rows stay together, whatever dies when, is in [`blobs`]. How an
//! update becomes the newest of its branch is in [`publishing`].

mod assets;
mod blobs;
mod builds;
mod form;
mod gc;
mod launch;
mod links;
mod publishing;
mod rollback;
mod slots;
mod updates;

use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::assets::AssetLimits;
pub(crate) use self::assets::{AssetIndex, AssetReads};
pub(crate) use self::blobs::keep_removing;
pub use self::slots::UploadLimits;
pub(crate) use self::slots::UploadSlots;
use crate::ApiState;

/// Routes for people and programs.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(updates::routes::list, updates::routes::create))
        .routes(routes!(updates::routes::patch, updates::routes::delete))
        .routes(routes!(updates::republish::republish))
        .routes(routes!(updates::routes::history))
        .routes(routes!(assets::upload::upload))
        .routes(routes!(builds::routes::list, builds::routes::upload))
        .routes(routes!(builds::routes::publish))
        .routes(routes!(builds::routes::delete))
        .routes(routes!(rollback::rollback))
        .routes(routes!(gc::usage, gc::collect))
}

/// Routes for devices.
pub(crate) fn device_router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(assets::serve::serve))
        .layer(
            CompressionLayer::new()
                .no_zstd()
                .compress_when(assets::serve::is_text),
        )
}
