"""One file per figure: info, pure builder, drawing function."""
