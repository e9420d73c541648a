//! What a person sees when everything is up.

use std::fmt;
use std::path::Path;

use crate::credentials::Credentials;

/// Where things are, and a first event to paste.
pub(crate) struct Welcome<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) credentials_path: &'a Path,
}

impl fmt::Display for Welcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials {
            base_url,
            project_slug,
            api_key,
            admin_url,
            ..
        } = self.credentials;
        let path = self.credentials_path.display();
        write!(
            f,
            "
Sluice is up.

  API and SDKs   {base_url}      (reference: {base_url}/docs)
  Metrics        {admin_url}/metrics
  Project        {project_slug}
  API key        {api_key}
  All of it      {path}

Send an event, as a device does, and look at it:

  curl -i {base_url}/v1/ota/health-metrics -H 'Content-Type: application/json' -d '{{\"projectSlug\":\"{project_slug}\",\"deviceId\":\"device-1\",\"platform\":\"ios\",\"runtimeVersion\":\"1.0.0\",\"events\":[{{\"type\":\"app_launch\",\"count\":1}},{{\"type\":\"js_error\",\"count\":1,\"message\":\"hello\"}}]}}'

  curl -s {base_url}/v1/ota/observe/events -H 'X-Project: {project_slug}' -H 'Authorization: Bearer {api_key}'
  curl -s '{base_url}/v1/ota/telemetry/timeseries?days=1' -H 'X-Project: {project_slug}' -H 'Authorization: Bearer {api_key}'

Ctrl-C stops it. What was acknowledged is kept, also through kill -9.
"
        )
    }
}
