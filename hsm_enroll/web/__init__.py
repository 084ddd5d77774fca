"""The operator's web page: the fleet and its invites in a browser on the operator's own machine."""
