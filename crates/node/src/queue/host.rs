//! The node as the queue sees it: runs an item like any other call, and knows the functions' limits.
//!
//! It adds nothing to an invocation but the HTTP part that functions of the `request` convention need.

use std::sync::Arc;

use bytes::Bytes;
use offshoot_model::{CallContext, Convention, Error, FunctionName, HttpPart, Invocation, Outcome};

use super::{Boxed, Context, EventInvokeConfig, Host};
use crate::catalog::{Catalog, FIRST};
use crate::durable::Durable;
use crate::invoker::Invoker;
use crate::registry::Registry;

/// The node's own functions.
pub struct NodeHost {
    /// What runs them.
    pub invoker: Arc<Invoker>,
    /// What knows them.
    pub registry: Arc<Registry>,
    /// What is set for them.
    pub catalog: Arc<Catalog>,
    /// What begins executions of durable ones.
    pub durable: Durable,
}

impl Host for NodeHost {
    fn run(&self, mut invocation: Invocation<Bytes>, context: Context) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        let called = self.registry.resolve_qualified(&invocation.function, context.qualifier.as_deref(), FIRST);
        if let Some(version) = called {
            invocation.http = posted(version.config.convention, invocation.http);
        }
        let Context { qualifier, client_context, trace } = context;
        invocation.context = Some(Box::new(CallContext { qualifier, client_context, trace, identity: None }));
        if self.durable.concerns(&invocation.function) {
            // Named by the item: an item that is run again finds the execution that it began.
            let name = Some(invocation.id.as_str().to_owned());
            return Box::pin(self.durable.hand_over(invocation, name));
        }
        if let Err(looped) = self.catalog.count_run(&mut invocation) {
            return Box::pin(async move { Err(looped) });
        }
        Box::pin(self.invoker.invoke(invocation))
    }

    fn concurrency(&self, function: &FunctionName) -> Option<u32> {
        self.registry.resolve(function)?.config.concurrency
    }

    fn settings_for(&self, function: &FunctionName, qualifier: Option<&str>) -> EventInvokeConfig {
        self.catalog.asynchronous(function, qualifier)
    }

    fn arn(&self, function: &FunctionName, qualifier: &str) -> String {
        self.catalog.place().function(function.as_str(), Some(qualifier))
    }
}

/// The HTTP part of an event that reaches a function called by the `request` convention without one.
fn posted(convention: Convention, given: Option<HttpPart>) -> Option<HttpPart> {
    let json = ("content-type".to_owned(), "application/json".to_owned());
    match convention {
        Convention::Event => None,
        Convention::Request => Some(given.unwrap_or_else(|| HttpPart {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            headers: vec![json],
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_called_by_request_get_one() {
        assert!(posted(Convention::Event, None).is_none());
        let made = posted(Convention::Request, None).unwrap();
        assert_eq!((made.method.as_str(), made.path.as_str()), ("POST", "/"));
        let own = HttpPart { path: "/own".to_owned(), ..made };
        assert_eq!(posted(Convention::Request, Some(own)).unwrap().path, "/own");
    }
}
