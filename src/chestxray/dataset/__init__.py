"""The one decoder, patients kept apart, images packed once."""
