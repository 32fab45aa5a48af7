//! Durable executions, without boxes: the machine under arbitrary events, and the whole with a host that plays the function.
