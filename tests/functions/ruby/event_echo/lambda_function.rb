# AWS's convention: gives back the event and what the context says.
def lambda_handler(event:, context:)
  {
    event: event,
    context: {
      functionName: context.function_name,
      functionVersion: context.function_version,
      memoryLimitInMB: context.memory_limit_in_mb,
      awsRequestId: context.aws_request_id,
      invokedFunctionArn: context.invoked_function_arn,
      remaining: context.get_remaining_time_in_millis
    },
    env: ENV.to_h
  }
end
