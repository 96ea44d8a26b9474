"""What a finished run leaves the studio as: adapter, merged model, GGUF, model card, standalone script, or a repository on a hub."""
