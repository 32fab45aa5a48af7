// A handler as AWS Lambda calls it, here for a batch of queue messages. Messages that fail are named in the answer, so that
// only they are delivered again (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
export const handler = async (event, context) => {
  const batchItemFailures = [];
  for (const record of event.Records) {
    try {
      const order = JSON.parse(record.body);
      console.log(`${context.awsRequestId}: order ${order.id} of ${order.amount}`);
    } catch (error) {
      console.error(`${record.messageId}: ${error.message}`);
      batchItemFailures.push({ itemIdentifier: record.messageId });
    }
  }
  return { batchItemFailures };
};
