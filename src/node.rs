//! The assembly of a node.
