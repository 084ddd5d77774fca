"""The operator's side: deploying the backend with CloudFormation, and calling its IAM-authorized routes."""
