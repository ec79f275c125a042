"""The loop against a real engine on this machine's processor: `make test-engine`."""
