//! Whether credentials are good.

use hyper::Method;

use super::{Client, Failures, Tries};
use crate::registry::auth::{self, Access, Answer};
use crate::registry::config::Endpoint;
use crate::registry::credentials::Credential;
use crate::registry::error::RegistryError;
use crate::registry::transport::Response;

impl Client {
    /// Shows `credential` to the registry `host`.
    ///
    /// # Errors
    /// `BadLogIn` where it is not accepted; all that can go wrong on the way there.
    pub async fn log_in(&self, host: &str, credential: &Credential) -> Result<(), RegistryError> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(host).await?.iter().filter(|endpoint| endpoint.mirror_of.is_none()) {
            if !failures.permit(endpoint) {
                continue;
            }
            match self.log_in_at(endpoint, credential).await {
                Ok(()) => return Ok(()),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.last_error().unwrap_or_else(|| RegistryError::ReadOnly { host: host.to_owned() }))
    }

    async fn log_in_at(&self, endpoint: &Endpoint, credential: &Credential) -> Result<(), RegistryError> {
        let refused = |status| RegistryError::BadLogIn { host: endpoint.host.clone(), user: credential.username.clone(), status };
        let first = self.transport.send(&endpoint.request(Method::GET, "")?).await?;
        if first.status.as_u16() != 401 {
            return verdict(first).await;
        }
        let answer = auth::answer(&self.transport, endpoint, &Access::LogIn, &first.headers, Some(credential)).await;
        let value = match answer {
            Ok(Answer::Retry(value)) => value,
            Ok(Answer::GiveUp) => return Err(refused(401)),
            Err(RegistryError::Denied { status, .. }) => return Err(refused(status)),
            Err(error) => return Err(error),
        };
        let request = endpoint.request(Method::GET, "")?.header(hyper::header::AUTHORIZATION, value);
        let second = self.transport.send(&request).await?;
        match second.status.as_u16() {
            status @ (401 | 403) => Err(refused(status)),
            _ => verdict(second).await,
        }
    }

    /// The place where images of `host` are pushed, with its token at hand.
    pub(super) async fn place_to_push(&self, host: &str, access: &Access, name: &str) -> Result<Endpoint, RegistryError> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(host).await?.iter().filter(|endpoint| endpoint.serves.pushes) {
            if !failures.permit(endpoint) {
                continue;
            }
            let asked = async {
                let request = endpoint.request(Method::GET, "")?;
                verdict(self.authorized(endpoint, access, name, request, Tries::Many).await?).await
            };
            match asked.await {
                Ok(()) => return Ok(endpoint.clone()),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.last_error().unwrap_or_else(|| RegistryError::ReadOnly { host: host.to_owned() }))
    }
}

/// The version check answers 200; some registries have nothing there, which is no reason not to try.
async fn verdict(response: Response) -> Result<(), RegistryError> {
    match response.status.as_u16() {
        200..300 | 404 => Ok(()),
        _ => Err(response.into_status_error().await),
    }
}
