-- Predictions that were recorded, whole, so that each can be asked again and held against a later run.
CREATE TABLE predictions (
    prediction_id VARCHAR PRIMARY KEY, -- hash of the document
    profile VARCHAR NOT NULL,
    document JSON NOT NULL,
    created_at TIMESTAMP NOT NULL
);
