//! Clients that speak HTTP and JSON.
