def run_evaluation_stage(session, autoencoder):
    pass
