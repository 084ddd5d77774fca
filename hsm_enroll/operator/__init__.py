"""The operator's side: deploys the backend with CloudFormation, and calls its IAM-authorized routes."""
