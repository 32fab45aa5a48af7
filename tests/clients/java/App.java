package example;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.LinkedHashMap;
import java.util.Map;

/** A function on AWS's runtime interface client for Java: it answers, fails, sleeps or ends, as its event says. */
public class App implements RequestHandler<Map<String, Object>, Map<String, Object>> {
    private int calls = 0;

    @Override
    public Map<String, Object> handleRequest(Map<String, Object> event, Context context) {
        calls += 1;
        context.getLogger().log("call " + calls + "\n");
        if (event.containsKey("fail")) {
            throw new IllegalStateException("asked to");
        }
        if (event.containsKey("exit")) {
            System.exit(((Number) event.get("exit")).intValue());
        }
        Map<String, Object> seen = new LinkedHashMap<>();
        seen.put("event", event);
        seen.put("id", context.getAwsRequestId());
        seen.put("arn", context.getInvokedFunctionArn());
        seen.put("name", context.getFunctionName());
        seen.put("memory", context.getMemoryLimitInMB());
        seen.put("remaining", context.getRemainingTimeInMillis());
        seen.put("calls", calls);
        return seen;
    }
}
