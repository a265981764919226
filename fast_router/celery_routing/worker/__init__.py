"""The routing worker: a Celery application that decides where a request goes."""
