"""The pages of the control plane, for people: made on the server, with forms that work without scripts."""
