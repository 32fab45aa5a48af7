# What the test `lambda::terraform_works_unmodified` applies, changes and destroys: one of each resource of the provider that
# this server has the operations for.
terraform {
  required_providers { aws = { source = "hashicorp/aws", version = ">= 5.0" } }
}
variable "url" {}
variable "runtime" {}
variable "memory" { default = 128 }
provider "aws" {
  region = "us-east-1"
  access_key = "any"
  secret_key = "any"
  skip_credentials_validation = true
  skip_requesting_account_id = true
  skip_metadata_api_check = true
  skip_region_validation = true
  endpoints { lambda = var.url }
}
resource "aws_lambda_layer_version" "lib" {
  layer_name = "lib"
  filename = "layer.zip"
  compatible_runtimes = [var.runtime]
}
resource "aws_lambda_function" "f" {
  function_name = "tf"
  role = "arn:aws:iam::000000000000:role/r"
  handler = "index.handler"
  runtime = var.runtime
  filename = "code.zip"
  source_code_hash = filebase64sha256("code.zip")
  memory_size = var.memory
  publish = true
  layers = [aws_lambda_layer_version.lib.arn]
  reserved_concurrent_executions = 5
  environment { variables = { A = "1" } }
  tags = { k = "v" }
}
resource "aws_lambda_alias" "live" {
  name = "live"
  function_name = aws_lambda_function.f.function_name
  function_version = aws_lambda_function.f.version
}
resource "aws_lambda_permission" "s3" {
  statement_id = "s3"
  action = "lambda:InvokeFunction"
  function_name = aws_lambda_function.f.function_name
  principal = "s3.amazonaws.com"
  qualifier = aws_lambda_alias.live.name
}
resource "aws_lambda_function_url" "u" {
  function_name = aws_lambda_function.f.function_name
  qualifier = aws_lambda_alias.live.name
  authorization_type = "NONE"
  cors { 
    allow_origins = ["*"] 
    max_age = 60
  }
}
resource "aws_lambda_function_event_invoke_config" "e" {
  function_name = aws_lambda_function.f.function_name
  maximum_retry_attempts = 0
}
resource "aws_lambda_provisioned_concurrency_config" "p" {
  function_name = aws_lambda_function.f.function_name
  qualifier = aws_lambda_alias.live.name
  provisioned_concurrent_executions = 1
}
resource "aws_lambda_event_source_mapping" "m" {
  function_name = aws_lambda_function.f.arn
  event_source_arn = "arn:aws:sqs:us-east-1:000000000000:q"
}
resource "aws_lambda_runtime_management_config" "r" {
  function_name = aws_lambda_function.f.function_name
  update_runtime_on = "FunctionUpdate"
}
resource "aws_lambda_function_recursion_config" "c" {
  function_name = aws_lambda_function.f.function_name
  recursive_loop = "Allow"
}
data "aws_lambda_invocation" "i" {
  function_name = aws_lambda_function.f.function_name
  qualifier = aws_lambda_alias.live.name
  input = "{\"x\":1}"
}
output "result" { value = jsondecode(data.aws_lambda_invocation.i.result).event.x }
