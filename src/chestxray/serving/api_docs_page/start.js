// Shows the description of the interface; everything comes from this service.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#interface",
  deepLinking: true,
  validatorUrl: null,
  displayRequestDuration: true,
  supportedSubmitMethods: ["get", "post"],
});
