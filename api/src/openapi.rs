//! The OpenAPI 3.1 document, generated from the routes.
//!
//! Routes describe what is theirs; [`describe`] adds what follows from the
//! conventions of management.md §1–2, so that no route can forget it:
//!
//! | A route says | so it also has |
//! |---|---|
//! | `security(("bearer" = []))` | 401 |
//! | `security(("bearer" = ["editor"]))` | 401, the header `X-Project`, 400, 403, 404 |
//! | a request body | 400, 413, 415 |
//! | parameters | 400 |
//! | anything | 500, 503 |

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, PathItem, Ref, RefOr,
    Required, Response, ResponseBuilder, Type,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use crate::ApiState;
use crate::error::ErrorBody;

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/v1/ota/openapi.json";
/// Where people read it.
pub const PAGE_PATH: &str = "/docs";
/// The header that names the project.
pub const PROJECT_HEADER: &str = "X-Project";
/// Name of the only security scheme. Its scopes are the roles of a project.
const BEARER: &str = "bearer";

/// Splits routes into the router and its complete description.
pub(crate) fn describe(routes: OpenApiRouter<ApiState>) -> (axum::Router<ApiState>, OpenApi) {
    let (router, mut document) = routes.split_for_parts();
    document.info = InfoBuilder::new()
        .title("Sluice")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Release and flag health from devices, and what people decide by it.",
        ))
        .build();
    let components = document.components.take().unwrap_or_default();
    let components = ComponentsBuilder::from(components)
        .security_scheme(
            BEARER,
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        )
        .schema(ErrorBody::name(), ErrorBody::schema())
        .build();
    document.components = Some(components);
    // The rest of a path is a parameter like any other here.
    let paths = std::mem::take(&mut document.paths.paths).into_iter();
    document.paths.paths = paths
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    document
        .paths
        .paths
        .values_mut()
        .flat_map(operations)
        .for_each(complete);
    (router, document)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.patch,
        &mut item.put,
        &mut item.delete,
    ]
    .into_iter()
    .filter_map(Option::as_mut)
}

/// Adds what the conventions say about this operation.
fn complete(operation: &mut Operation) {
    let access = Access::of(operation);
    if access == Access::Project {
        operation
            .parameters
            .get_or_insert_default()
            .insert(0, project_header().into());
    }
    let has_parameters = operation.parameters.as_ref().is_some_and(|p| !p.is_empty());
    let has_body = operation.request_body.is_some();
    let statuses = [
        (
            "400",
            "The request is malformed or fails validation",
            has_parameters || has_body,
        ),
        ("401", "No valid credential", access != Access::Public),
        ("403", "The role is too low", access == Access::Project),
        (
            "404",
            "No such project, or no such thing in it",
            access == Access::Project,
        ),
        ("408", "The body arrives too slowly", has_body),
        ("413", "The body is too large", has_body),
        ("415", "The body is of another type", has_body),
        ("500", "Internal error", true),
        ("503", "A dependency is away", true),
    ];
    for (status, description, applies) in statuses {
        if applies {
            let slot = operation.responses.responses.entry(status.to_owned());
            slot.or_insert_with(|| RefOr::T(refusal(description)));
        }
    }
    fill_in_refusals(operation);
}

/// Gives the statuses that routes name themselves (409, 404, …) the error body.
fn fill_in_refusals(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        let is_refusal = status.starts_with(['4', '5']);
        if is_refusal && response.content.is_empty() {
            *response = refusal(&response.description);
        }
    }
}

fn refusal(description: &str) -> Response {
    let id = ObjectBuilder::new().schema_type(Type::String);
    ResponseBuilder::new()
        .description(description)
        .header(
            "x-request-id",
            HeaderBuilder::new().schema(Some(id)).build(),
        )
        .content(
            "application/json",
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(ErrorBody::name())))
                .build(),
        )
        .build()
}

fn project_header() -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name(PROJECT_HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::True)
        .description(Some("Slug of the project"))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1)),
        ))
        .build()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Public,
    Credential,
    Project,
}

impl Access {
    fn of(operation: &Operation) -> Self {
        let bearer = SecurityRequirement::new(BEARER, Vec::<String>::new());
        match operation.security.as_deref() {
            None | Some([]) => Self::Public,
            Some(requirements) if requirements.contains(&bearer) => Self::Credential,
            Some(requirements) if requirements.contains(&SecurityRequirement::default()) => {
                Self::Public
            }
            Some(_) => Self::Project,
        }
    }
}
