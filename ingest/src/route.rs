//! The two paths that are the edge's.

/// A path of the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v1/ota/health-metrics`, public.
    Health,
    /// `/v1/ota/flag-evaluations`, with a credential.
    Evaluations,
}

impl Route {
    /// The route of a path, with or without one trailing slash, and with or
    /// without the operator's `prefix`.
    pub(crate) fn of(prefix: &str, path: &str) -> Option<Self> {
        let path = path.strip_prefix(prefix).unwrap_or(path);
        match path.strip_suffix('/').unwrap_or(path) {
            "/v1/ota/health-metrics" => Some(Self::Health),
            "/v1/ota/flag-evaluations" => Some(Self::Evaluations),
            _ => None,
        }
    }

    /// As a metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Health => "health_metrics",
            Self::Evaluations => "flag_evaluations",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_slash_and_the_prefix_are_tolerated() {
        let health = "/v1/ota/health-metrics";
        assert_eq!(Route::of("", health), Some(Route::Health));
        assert_eq!(
            Route::of("", "/v1/ota/flag-evaluations/"),
            Some(Route::Evaluations)
        );
        assert_eq!(
            Route::of("/ota-eu", &format!("/ota-eu{health}")),
            Some(Route::Health)
        );
        assert_eq!(Route::of("/ota-eu", health), Some(Route::Health));
        for other in [
            "",
            "/",
            "/v1/ota/health-metrics//",
            "/v1/ota",
            "/v1/ota/flag-evaluations-bulk",
        ] {
            assert_eq!(Route::of("", other), None, "{other}");
        }
    }
}
