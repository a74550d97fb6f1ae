//! Towards this node's MySQL.
