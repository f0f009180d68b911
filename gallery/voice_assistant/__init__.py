"""The package `voice-assistant`: speech in, understood and acted on by `support`, speech out."""
