//! `config.toml` and the environment, made into a typed and validated [`Config`].
