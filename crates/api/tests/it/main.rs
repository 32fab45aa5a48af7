//! The HTTP floor over real sockets, on a node that exists only here: what every route answers (`routes`), and what bad
//! input meets (`hostile`), and what all of it costs (`speed`, run by hand).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;
mod node;
mod routes;
