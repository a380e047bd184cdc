"""Kafka: jobs in, results out. The only folder that imports a Kafka client."""
