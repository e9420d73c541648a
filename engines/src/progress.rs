//! Progress on a terminal, silence elsewhere.

use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Engines are fetched at the same time: their lines share the screen.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A spinner that goes away when it is dropped. The registries' clients do not
/// tell sizes, so there is nothing to measure a bar by.
pub(crate) fn spinner(message: &str) -> Spinner {
    let bar = SCREEN.add(ProgressBar::new_spinner().with_message(message.to_owned()));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    Spinner(bar)
}

pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub(crate) fn say(&self, message: &str) {
        self.0.set_message(message.to_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
