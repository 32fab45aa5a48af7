"""A shop on Powertools for Python: logs, metrics, traces, a router for HTTP, a batch of records, a parsed order, and orders that are
taken once. The test deploys it beside the library and reads its answers and what it prints."""
import os

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, LambdaFunctionUrlResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.idempotency import BasePersistenceLayer, IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
)
from aws_lambda_powertools.utilities.parser import BaseModel, ValidationError, parse

logger = Logger(service="shop")
metrics = Metrics(namespace="Shop", service="shop")
tracer = Tracer(service="shop")
gateway = APIGatewayHttpResolver()
url = LambdaFunctionUrlResolver()
batch = BatchProcessor(event_type=EventType.SQS)


class Order(BaseModel):
    item: str
    count: int


class Memory(BasePersistenceLayer):
    """What was done, for as long as the environment lives."""

    def __init__(self):
        self.kept = {}
        super().__init__()

    def _get_record(self, idempotency_key):
        if idempotency_key not in self.kept:
            raise IdempotencyItemNotFoundError
        return self.kept[idempotency_key]

    def _put_record(self, data_record):
        known = self.kept.get(data_record.idempotency_key)
        if known and not known.is_expired:
            raise IdempotencyItemAlreadyExistsError(old_data_record=known)
        self.kept[data_record.idempotency_key] = data_record

    def _update_record(self, data_record):
        self.kept[data_record.idempotency_key] = data_record

    def _delete_record(self, data_record):
        self.kept.pop(data_record.idempotency_key, None)


once = IdempotencyConfig(event_key_jmespath="id")
taken = 0


@idempotent_function(data_keyword_argument="order", persistence_store=Memory(), config=once)
def take(order):
    global taken
    taken += 1
    return {"number": taken}


for app in (gateway, url):

    @app.get("/items/<name>")
    @tracer.capture_method
    def item(name, app=app):
        return {"item": name, "query": app.current_event.query_string_parameters}

    @app.post("/items")
    def made(app=app):
        return Response(201, "text/plain", "made " + app.current_event.json_body["item"], {"X-Shop": ["open"]})

    @app.get("/none")
    def none():
        raise NotFoundError("no such thing")


def of_batch(record):
    if record.body == "bad":
        raise ValueError("asked to")


@logger.inject_lambda_context(log_event=False, clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
@tracer.capture_lambda_handler
def handler(event, context):
    logger.append_keys(kind=sorted(event)[0] if event else "none")
    if "Records" in event:
        return process_partial_response(event=event, record_handler=of_batch, processor=batch, context=context)
    if "requestContext" in event:
        return (url if "lambda-url" in event["requestContext"]["domainName"] else gateway).resolve(event, context)
    if "order" in event:
        try:
            order = parse(event=event["order"], model=Order)
        except ValidationError as error:
            logger.warning("refused", extra={"problems": error.error_count()})
            return {"refused": True}
        metrics.add_metric(name="Ordered", unit=MetricUnit.Count, value=order.count)
        logger.info("ordered", extra={"item": order.item})
        once.register_lambda_context(context)
        return {**take(order=event["order"]), "pid": os.getpid()}
    if "fail" in event:
        try:
            raise KeyError("asked to")
        except KeyError:
            logger.exception("it failed")
            raise
    return {"left": context.get_remaining_time_in_millis()}
